"""Where audio comes from: one module per media server or protocol, and folders. Knows no vectors and no rows."""
