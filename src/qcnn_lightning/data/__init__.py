"""Images: where they come from, in which order their pixels enter the tree, how they are batched."""
