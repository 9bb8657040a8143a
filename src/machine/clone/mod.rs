//! What a throwaway clone of a machine is made of: its root, its container, its network, its control group, the
//! difference that its overlay holds, and the registry of what was made for it.

pub mod cgroup;
pub mod container;
pub mod id_range;
pub mod network;
pub mod overlay_difference;
pub mod registry;
pub mod root;
pub mod root_files;
