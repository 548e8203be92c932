"""Architectures, one a file: being there is enough (:mod:`repro.config.registry`)."""
