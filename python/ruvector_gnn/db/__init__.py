"""`VectorDB`: an embedded, durable vector database that learns from its query log."""

from ruvector_gnn.db.database import VectorDB
from ruvector_gnn.db.results import Hit, Record, Records, SearchResult

__all__ = ["Hit", "Record", "Records", "SearchResult", "VectorDB"]
