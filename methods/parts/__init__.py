"""What several methods share: heads, views, momentum encoders, branches."""
