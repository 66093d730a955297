//! What a filter is evaluated over.

/// The type of a field: what a selector may name below it, and which operators it has.
#[derive(Debug)]
pub enum FieldType {
    /// A text. Its zero value is empty.
    Text,
    /// An integer of 64 bits.
    Integer,
    /// A boolean. Its zero value is false.
    Boolean,
    /// By any key.
    Map(&'static FieldType),
    /// Values of one type.
    List(&'static FieldType),
    /// The fields that a selector may name; a row may have more.
    Record(&'static [(&'static str, FieldType)]),
}

/// A value of a row, or the row itself. A method of another type than that of the value returns the zero value of its type.
pub trait FilterValue<'a>: Copy {
    /// The value of a text.
    fn text(self) -> &'a str;
    /// The value of an integer.
    fn integer(self) -> i64;
    /// The value of a boolean.
    fn boolean(self) -> bool;
    /// The value of a field of a record, or of a key of a map. `None`: it has none.
    fn entry(self, name: &str) -> Option<Self>;
    /// The value at this place of a list. `None`: the list is shorter.
    fn element(self, n: usize) -> Option<Self>;
    /// Whether a list or a map has nothing in it.
    fn is_empty(self) -> bool;
}
