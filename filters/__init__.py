"""Finds. Regex, classifier, critique and whatever a team plugs in; a filter never decides."""
