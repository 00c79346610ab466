//! What each request does, as methods of [`State`](crate::state::State); the errors are what programs see.

mod attrs;
mod files;
mod listing;
mod names;

pub(crate) use attrs::Space;
pub(crate) use listing::Row;
