"""Images: where they come from, how they are decoded, checked, split and stored, and how training reads them."""
