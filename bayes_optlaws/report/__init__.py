"""One page that answers, checks and shows what was learned."""
