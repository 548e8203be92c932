"""One file a method. Being here is enough: the registry finds it, and the registry-wide tests pick it up."""
