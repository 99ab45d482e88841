//! Header compression (RFC 7541): what we send is not compressed, what we get may be.

use loona_hpack::Decoder;

/// Fields in order, pseudo-fields first.
pub type Fields = Vec<(String, String)>;

/// Encodes every field as a literal that enters no table: neither side keeps any state for us.
pub fn encode<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        string(name.as_ref(), &mut block);
        string(value.as_ref(), &mut block);
    }
    block
}

/// The length in an integer with a 7-bit prefix (§5.1), and the bytes without Huffman coding.
fn string(bytes: &[u8], block: &mut Vec<u8>) {
    let mut rest = bytes.len();
    if rest < 127 {
        block.push(rest as u8);
    } else {
        block.push(127);
        rest -= 127;
        while rest >= 128 {
            block.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        block.push(rest as u8);
    }
    block.extend_from_slice(bytes);
}

/// The state that the peer's encoder shares with us.
#[derive(Default)]
pub struct Inflate(Decoder<'static>);

impl Inflate {
    /// Decodes a whole block.
    pub fn decode(&mut self, block: &[u8]) -> Result<Fields, String> {
        let fields = self.0.decode(block).map_err(|e| format!("a header block that cannot be decoded: {e:?}"))?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(fields.into_iter().map(|(name, value)| (text(name), text(value))).collect())
    }
}

impl std::fmt::Debug for Inflate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inflate")
    }
}
