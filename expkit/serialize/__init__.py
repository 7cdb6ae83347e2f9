"""From observed boards to what trainers read: representations, turned boards, pooled arrays.
Imports formats and all that stands below; none of the packages beside it."""
