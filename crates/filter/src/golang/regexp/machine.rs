//! Runs an expression over a text, all its alternatives at once.

use super::{
    class::CharClass,
    parse::{Pattern, Place},
};

/// Most instructions of an expression. Consul's own limit is far higher.
const INSTRUCTIONS_MAX: usize = 20_000;

/// An expression as instructions.
#[derive(Debug)]
pub(super) struct Program {
    instructions: Vec<Instruction>,
    /// The index of the first one.
    start: usize,
}

#[derive(Debug)]
enum Instruction {
    /// Reads a character of the class.
    Read {
        class: CharClass,
        next: usize,
    },
    /// Goes on where the place is.
    At {
        place: Place,
        next: usize,
    },
    /// Goes on at both.
    Both(usize, usize),
    Matched,
}

impl Program {
    /// # Errors
    /// The expression has too many instructions.
    pub(super) fn compile(pattern: &Pattern) -> Result<Self, String> {
        let mut program = Self { instructions: vec![Instruction::Matched], start: 0 };
        program.start = program.add_pattern(pattern, 0)?;
        Ok(program)
    }

    /// About how many bytes of memory it has.
    pub(super) fn size(&self) -> usize {
        let ranges = |instruction: &Instruction| match instruction {
            Instruction::Read { class, .. } => size_of_val(class.ranges.as_slice()),
            Instruction::At { .. } | Instruction::Both(..) | Instruction::Matched => 0,
        };
        size_of_val(self.instructions.as_slice()) + self.instructions.iter().map(ranges).sum::<usize>()
    }

    fn push(&mut self, instruction: Instruction) -> Result<usize, String> {
        if self.instructions.len() == INSTRUCTIONS_MAX {
            return Err(format!("Regular expressions of up to {INSTRUCTIONS_MAX} instructions are compiled"));
        }
        self.instructions.push(instruction);
        Ok(self.instructions.len() - 1)
    }

    /// Adds the instructions of a pattern, which go on at `next`. Returns their first.
    fn add_pattern(&mut self, pattern: &Pattern, next: usize) -> Result<usize, String> {
        match pattern {
            Pattern::Class(class) => self.push(Instruction::Read { class: class.clone(), next }),
            Pattern::Place(place) => self.push(Instruction::At { place: *place, next }),
            Pattern::All(parts) => {
                parts.iter().rev().try_fold(next, |next, part| self.add_pattern(part, next))
            }
            Pattern::Any(parts) => {
                let mut starts = Vec::new();
                for part in parts {
                    starts.push(self.add_pattern(part, next)?);
                }
                let last = starts.pop().unwrap_or(next);
                starts
                    .into_iter()
                    .rev()
                    .try_fold(last, |other, start| self.push(Instruction::Both(start, other)))
            }
            Pattern::Repeat { pattern, min, max } => {
                let tail = match max {
                    None => {
                        let again = self.push(Instruction::Both(next, next))?;
                        let start = self.add_pattern(pattern, again)?;
                        if let Some(instruction) = self.instructions.get_mut(again) {
                            *instruction = Instruction::Both(start, next);
                        }
                        again
                    }
                    Some(max) => (*min..*max).try_fold(next, |after, _| {
                        let start = self.add_pattern(pattern, after)?;
                        self.push(Instruction::Both(start, next))
                    })?,
                };
                (0..*min).try_fold(tail, |next, _| self.add_pattern(pattern, next))
            }
        }
    }

    /// Whether the expression occurs anywhere in `text`.
    pub(super) fn matches(&self, text: &str) -> bool {
        let mut states = States::new(self.instructions.len());
        let mut next_states = States::new(self.instructions.len());
        let mut before = None;
        let mut chars = text.chars();
        loop {
            let char = chars.next();
            // A match may begin at every character.
            if self.follow(self.start, &mut states, before, char) {
                return true;
            }
            let Some(char) = char else { return false };
            let after = chars.clone().next();
            next_states.clear();
            for at in &states.pending {
                if let Some(Instruction::Read { class, next }) = self.instructions.get(*at)
                    && class.has(char)
                    && self.follow(*next, &mut next_states, Some(char), after)
                {
                    return true;
                }
            }
            std::mem::swap(&mut states, &mut next_states);
            before = Some(char);
        }
    }

    /// Adds what can be reached from an instruction without reading. Whether the expression has matched.
    fn follow(&self, from: usize, states: &mut States, before: Option<char>, after: Option<char>) -> bool {
        let mut open = vec![from];
        while let Some(at) = open.pop() {
            if !states.add(at) {
                continue;
            }
            match self.instructions.get(at) {
                Some(Instruction::Matched) => return true,
                Some(Instruction::Both(first, second)) => open.extend([*second, *first]),
                Some(Instruction::At { place, next }) if place.is_between(before, after) => open.push(*next),
                Some(Instruction::At { .. } | Instruction::Read { .. }) | None => {}
            }
        }
        false
    }
}

/// The instructions that are reached at one place of the text.
struct States {
    pending: Vec<usize>,
    reached: Vec<bool>,
}

impl States {
    fn new(instructions: usize) -> Self {
        Self { pending: Vec::new(), reached: vec![false; instructions] }
    }

    /// Whether the instruction is new.
    fn add(&mut self, at: usize) -> bool {
        let Some(reached) = self.reached.get_mut(at).filter(|reached| !**reached) else { return false };
        *reached = true;
        self.pending.push(at);
        true
    }

    fn clear(&mut self) {
        for at in self.pending.drain(..) {
            if let Some(reached) = self.reached.get_mut(at) {
                *reached = false;
            }
        }
    }
}

impl Place {
    fn is_between(self, before: Option<char>, after: Option<char>) -> bool {
        let is_word =
            |char: Option<char>| char.is_some_and(|char| char == '_' || char.is_ascii_alphanumeric());
        match self {
            Self::TextStart => before.is_none(),
            Self::TextEnd => after.is_none(),
            Self::LineStart => matches!(before, None | Some('\n')),
            Self::LineEnd => matches!(after, None | Some('\n')),
            Self::WordEdge => is_word(before) != is_word(after),
            Self::NoWordEdge => is_word(before) == is_word(after),
        }
    }
}
