"""From observed boards to what trainers read: representations, pooled arrays, cached visibility."""
