"""One file a dialect: each maps its requests to the neutral conversation, and answers back."""
