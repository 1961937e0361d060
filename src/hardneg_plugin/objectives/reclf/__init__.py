"""Words matched with regions, and how they relate."""
