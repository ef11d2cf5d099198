//! What a volume does for what has to survive a power cut.

/// How much has to survive a power cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// What was synced, and what is needed to read it. For what is to outlive its machine.
    #[default]
    Strict,
    /// Only what is synced by itself, in a store whose disk ends with its machine.
    Relaxed,
}
