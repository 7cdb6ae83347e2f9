"""From observed boards to what trainers read: representations, turned boards, pooled arrays."""
