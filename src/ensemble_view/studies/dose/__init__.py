"""Scale branches step by step, with other changes beside each deletion."""
