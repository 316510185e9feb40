"""The students' networks, and the registry that builds one by its name. No data, no loss."""
