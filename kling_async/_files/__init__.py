"""Videos out and media in: files, URLs and buckets; no host is trusted."""
