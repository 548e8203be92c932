"""Kinds of label noise, one a file: being there is enough (:mod:`repro.config.registry`)."""
