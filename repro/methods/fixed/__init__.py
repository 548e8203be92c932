"""Methods whose targets are not learned."""
