"""Input for the demonstration: invented news of one small shop, and real text."""
