"""Where images come from, and what their folders, tables and names mean."""
