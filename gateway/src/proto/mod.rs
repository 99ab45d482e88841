//! HTTP as data: no socket, no clock, no allocation per message once the buffers have grown.

pub mod head;
