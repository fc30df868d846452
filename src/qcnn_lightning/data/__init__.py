"""Images: their sources, the order of their pixels in the tree, and batches."""
