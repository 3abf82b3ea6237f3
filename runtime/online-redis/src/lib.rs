//! The online store in Redis, a single server or a Cluster.
