"""What a user may set: schema, YAML + ${ENV} + .env, presets, the click group. Imports nothing of the other folders."""
