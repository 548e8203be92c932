"""Jobs on a cluster: submitting them, what they do, and how far they are."""
