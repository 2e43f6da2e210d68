"""Where Granite meets other libraries."""
