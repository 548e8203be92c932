"""Run folders, plans and evidence: reading them."""
