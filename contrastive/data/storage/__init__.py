"""Files, folders and storages: written whole, locked, fetched and copied to the cache."""
