"""The recipes' kit: presets and records of stages, a trainer of small models, and the small models themselves."""
