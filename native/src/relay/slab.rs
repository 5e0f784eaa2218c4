//! Slots with a generation, so that a late event or timer of a closed connection never meets its successor.

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub index: u32,
    pub generation: u32,
}

const GENERATIONS: u32 = 1 << 24;

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

pub struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn insert(&mut self, value: T) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, value: None });
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        slot.value = Some(value);
        Key { index, generation: slot.generation }
    }

    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.slots.get_mut(key.index as usize).filter(|s| s.generation == key.generation)?.value.as_mut()
    }

    pub fn get(&self, key: Key) -> Option<&T> {
        self.slots.get(key.index as usize).filter(|s| s.generation == key.generation)?.value.as_ref()
    }

    pub fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.index as usize).filter(|s| s.generation == key.generation)?;
        let value = slot.value.take()?;
        slot.generation = (slot.generation + 1) % GENERATIONS;
        self.free.push(key.index);
        Some(value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slots.iter().enumerate().filter_map(|(i, s)| Some((Key { index: i as u32, generation: s.generation }, s.value.as_ref()?)))
    }

    pub fn keys(&self) -> Vec<Key> {
        self.iter().map(|(k, _)| k).collect()
    }
}

/// What an epoll event belongs to; packed into its 64 bits of user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    Wake,
    /// Listener of a pod: index into the worker's listener table.
    Listener(Key),
    Down(Key),
    Up(Key),
    Tunnel(Key),
    /// The two sockets of a join.
    Source(Key),
    Sink(Key),
}

impl Token {
    pub fn pack(self) -> u64 {
        let (kind, key) = match self {
            Token::Wake => (0u64, Key { index: 0, generation: 0 }),
            Token::Listener(k) => (1, k),
            Token::Down(k) => (2, k),
            Token::Up(k) => (3, k),
            Token::Tunnel(k) => (4, k),
            Token::Source(k) => (5, k),
            Token::Sink(k) => (6, k),
        };
        kind << 56 | u64::from(key.generation) << 32 | u64::from(key.index)
    }

    pub fn unpack(bits: u64) -> Option<Token> {
        let key = Key { index: bits as u32, generation: (bits >> 32) as u32 & (GENERATIONS - 1) };
        match bits >> 56 {
            0 => Some(Token::Wake),
            1 => Some(Token::Listener(key)),
            2 => Some(Token::Down(key)),
            3 => Some(Token::Up(key)),
            4 => Some(Token::Tunnel(key)),
            5 => Some(Token::Source(key)),
            6 => Some(Token::Sink(key)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_meets_nothing() {
        let mut slab = Slab::default();
        let a = slab.insert("a");
        assert_eq!(slab.remove(a), Some("a"));
        let b = slab.insert("b");
        assert_eq!(b.index, a.index);
        assert!(slab.get(a).is_none() && slab.get(b) == Some(&"b"));
        assert_eq!(Token::unpack(Token::Tunnel(b).pack()), Some(Token::Tunnel(b)));
        assert_eq!(slab.len(), 1);
    }
}
