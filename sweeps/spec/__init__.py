"""Tables and figures as data: reading their YAML files."""
