//! placeholder until the meter lands
/// x
#[derive(Clone, Copy, Debug)]
pub enum Flood {}
impl std::fmt::Display for Flood {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Ok(())
    }
}
/// x
pub struct FrameMeter;
impl FrameMeter {
    /// x
    pub fn server(_: u64) -> FrameMeter {
        FrameMeter
    }
    /// x
    pub fn feed(&mut self, _: &[u8], _: u64) -> Result<(), Flood> {
        Ok(())
    }
}
