"""The gallery: SQLite holds the truth, FAISS is derived from it."""
