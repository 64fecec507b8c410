"""A page to look at: what is sent, who decided, what ran and what runs next; with the buttons that commands are."""
