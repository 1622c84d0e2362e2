"""Token stores: text chosen, mixed and tokenised once, read at any length."""
