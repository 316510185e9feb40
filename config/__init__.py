"""The settings (schema, YAML, ${ENV} and .env, presets) and the click group. Imports no other folder."""
