"""Videos to files, from hosts that are not trusted."""
