"""Dynamic MDETR."""
