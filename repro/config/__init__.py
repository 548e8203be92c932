"""The settings of a run: their schema, the choices that are registered, composing and checking them, and the id that follows."""
