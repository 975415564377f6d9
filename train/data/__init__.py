"""Images and labels: where they come from, how they become batches."""
