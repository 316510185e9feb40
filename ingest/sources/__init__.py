"""Where audio comes from: one module per media server, and folders. Adding a server is one new module here."""
