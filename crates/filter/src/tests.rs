use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

use super::{
    golang::quote,
    grammar::{Match, MatchPlace, Operator, Relation},
    *,
};

const ROW: FieldType = FieldType::Record(&[
    ("Name", FieldType::Text),
    ("Port", FieldType::Integer),
    ("Native", FieldType::Boolean),
    ("Tags", FieldType::List(&FieldType::Text)),
    ("Meta", FieldType::Map(&FieldType::Text)),
    ("Checks", FieldType::List(&FieldType::Record(&[("Status", FieldType::Text)]))),
]);

fn keeps(expression: &str, row: &Value) -> Result<bool, String> {
    let filter = FilterExpression::parse(expression).and_then(|expression| expression.bind(&ROW));
    filter.map(|filter| filter.keeps(row)).map_err(|error| error.to_string())
}

#[test]
fn what_a_row_leaves_out_has_the_zero_value_of_its_type() {
    let nothing = json!({});
    for expression in [
        "Name == \"\"",
        "\"\" in Name",
        "Name matches \"^$\"",
        "Port == 0",
        "Native == false",
        "Tags is empty",
        "x not in Tags",
        "Meta is empty",
        "Meta.x != y",
        "Checks is empty",
        "not Checks.Status == passing",
        "not Checks.Status != passing",
    ] {
        assert_eq!(keeps(expression, &nothing), Ok(true), "{expression}");
    }
}

#[test]
fn parentheses_within_each_other_are_bounded() {
    let nested = |depth: usize| format!("{}Name == x{}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(keeps(&nested(60), &json!({"Name": "x"})), Ok(true));
    assert!(keeps(&nested(10_000), &json!({})).unwrap_err().contains("parentheses within each other"));
}

/// Each operand is read once, and not once per alternative of each level, as Consul does.
#[test]
fn unclosed_parentheses_are_read_in_linear_time() {
    let unclosed = format!("{}Name == x", "(".repeat(50));
    assert_eq!(
        keeps(&unclosed, &json!({})),
        Err("1:60 (59): rule \"grouping\": Unmatched parentheses".to_owned())
    );
    assert_eq!(keeps(&format!("Name == x{}", " or not Name == x".repeat(5_000)), &json!({})), Ok(true));
    assert_eq!(keeps(&format!("{}Name == x", "not ".repeat(5_001)), &json!({})), Ok(true));
}

#[test]
fn an_error_has_the_column_of_what_is_wrong() {
    let cases = [
        ("Name = x", 6, "no match found, expected: "),
        ("", 1, "no match found, expected: "),
        ("Name == `ü` and Nmae == x", 17, "Selector \"Nmae\" is not valid"),
        ("Name == x and Port == eighty", 23, "Failed to coerce value \"eighty\""),
        ("Name == x and Port contains 1", 15, "Invalid match operator \"In\""),
        ("Name matches `(`", 14, "Failed to compile regular expression"),
        ("x in Port", 6, "Invalid match operator \"In\""),
        ("eighty in Ports", 11, "Selector \"Ports\" is not valid"),
        ("(Name == x", 11, "rule \"grouping\": Unmatched parentheses"),
    ];
    for (text, column, reason) in cases {
        let error = FilterExpression::parse(text).and_then(|read| read.bind(&ROW)).unwrap_err();
        assert!(error.reason().starts_with(reason), "{text}: {}", error.reason());
        assert_eq!(error.column(), column, "{text}: {error}");
    }
}

#[test]
fn the_memory_of_regular_expressions_is_known() {
    let size = |text: &str| FilterExpression::parse(text).unwrap().bind(&ROW).unwrap().regexp_size();
    assert_eq!(size("Name == x"), 0);
    let small = size("Name matches `^a`");
    assert!((1..1_000).contains(&small), "{small}");
    assert!(size("Name matches `^a` and not Name matches `^a`") == 2 * small);
    assert!(size("Name matches `a{500}`") > 10_000);
}

/// Texts that often equal each other.
fn literal() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c]{0,2}", "[ -~ü日\n\t]{0,4}", Just("not".to_owned()), Just("0".to_owned())]
}

fn matched() -> impl Strategy<Value = Match> {
    let selector = prop_oneof![
        Just(vec!["Name".to_owned()]),
        literal().prop_map(|key| vec!["Meta".to_owned(), key]),
        Just(vec!["Checks".to_owned(), "Status".to_owned()]),
    ];
    let compared = (selector, prop_oneof![Just(Relation::Equal), Just(Relation::In)], literal());
    let listed = (
        prop_oneof![Just("Tags"), Just("Meta")].prop_map(|name| vec![name.to_owned()]),
        prop_oneof![Just(Relation::In), Just(Relation::Empty)],
        literal(),
    );
    (prop_oneof![compared, listed], any::<bool>()).prop_map(|((selector, relation, value), negated)| {
        let value = if relation == Relation::Empty { String::new() } else { value };
        Match { selector, operator: Operator { relation, negated }, value, at: MatchPlace::default() }
    })
}

/// As the parser would build them: no `not not`, no list of one.
fn expression() -> impl Strategy<Value = Expression> {
    matched().prop_map(Expression::Match).prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 2..4).prop_map(Expression::All),
            vec(inner.clone(), 2..4).prop_map(Expression::Any),
            inner.prop_map(|inner| match inner {
                Expression::Not(inner) => *inner,
                other => Expression::Not(Box::new(other)),
            }),
        ]
    })
}

fn row() -> impl Strategy<Value = Value> {
    let texts = || vec(literal(), 0..3);
    (literal(), texts(), vec((literal(), literal()), 0..3), texts()).prop_map(|(name, tags, meta, checks)| {
        let meta: serde_json::Map<String, Value> =
            meta.into_iter().map(|(key, value)| (key, value.into())).collect();
        let checks: Vec<Value> = checks.into_iter().map(|status| json!({"Status": status})).collect();
        json!({"Name": name, "Tags": tags, "Meta": meta, "Checks": checks})
    })
}

fn without_places(expression: Expression) -> Expression {
    let all = |operands: Vec<Expression>| operands.into_iter().map(without_places).collect();
    match expression {
        Expression::All(operands) => Expression::All(all(operands)),
        Expression::Any(operands) => Expression::Any(all(operands)),
        Expression::Not(inner) => Expression::Not(Box::new(without_places(*inner))),
        Expression::Match(found) => Expression::Match(Match { at: MatchPlace::default(), ..found }),
    }
}

/// One of the ways to write an expression, chosen by `style`.
fn write(expression: &Expression, style: u8) -> String {
    let join = |operands: &[Expression], word: &str| {
        let operands: Vec<String> =
            operands.iter().map(|operand| format!("({})", write(operand, style.rotate_left(1)))).collect();
        // White space of any kind separates words.
        operands.join(&if style & 1 == 0 { word.to_owned() } else { word.replace(' ', "\n\t") })
    };
    match expression {
        Expression::All(operands) => join(operands, " and "),
        Expression::Any(operands) => join(operands, " or "),
        Expression::Not(inner) => format!("not ({})", write(inner, style.rotate_left(1))),
        Expression::Match(found) => write_match(found, style),
    }
}

fn write_match(found: &Match, style: u8) -> String {
    let Match { selector, operator, value, .. } = found;
    let quoted = |text: &str| match style & 2 == 0 && !text.contains(['`', '\r']) {
        true => format!("`{text}`"),
        // The grammar has no quote within quotes.
        false => {
            let parts = text.split('"').map(|part| quote(part).trim_matches('"').to_owned());
            format!("\"{}\"", parts.collect::<Vec<_>>().join("\\x22"))
        }
    };
    let mut path = selector[0].clone();
    for part in &selector[1..] {
        path += &format!("[{}]", quoted(part));
    }
    let value = quoted(value);
    let not = if operator.negated { "not " } else { "" };
    match operator.relation {
        Relation::Equal => format!("{path}{}{value}", if operator.negated { " != " } else { "==" }),
        Relation::In if style & 4 == 0 => format!("{path} {not}contains {value}"),
        Relation::In => format!("{value} {not}in {path}"),
        Relation::Empty => format!("{path} is {not}empty"),
        Relation::Matches => format!("{path} {not}matches {value}"),
    }
}

/// What an expression means, said without paths and types.
fn holds(expression: &Expression, row: &Value) -> bool {
    match expression {
        Expression::All(operands) => operands.iter().all(|operand| holds(operand, row)),
        Expression::Any(operands) => operands.iter().any(|operand| holds(operand, row)),
        Expression::Not(inner) => !holds(inner, row),
        Expression::Match(found) => match_holds(found, row),
    }
}

fn match_holds(Match { selector, operator, value, .. }: &Match, row: &Value) -> bool {
    let text = |found: &Value| {
        let found = found.as_str().unwrap_or_default();
        let holds = if operator.relation == Relation::Equal {
            found == value
        } else {
            found.contains(value.as_str())
        };
        holds != operator.negated
    };
    let texts = |name: &str| row[name].as_array().cloned().unwrap_or_default();
    let entries = row["Meta"].as_object().cloned().unwrap_or_default();
    match (selector[0].as_str(), selector.get(1)) {
        ("Name", _) => text(&row["Name"]),
        ("Meta", Some(key)) => entries.get(key).map_or(operator.negated, text),
        ("Checks", _) => texts("Checks").iter().any(|check| text(&check["Status"])),
        ("Tags", _) if operator.relation == Relation::Empty => texts("Tags").is_empty() != operator.negated,
        ("Tags", _) => texts("Tags").iter().any(|tag| tag == value) != operator.negated,
        (_, _) if operator.relation == Relation::Empty => entries.is_empty() != operator.negated,
        (_, _) => entries.contains_key(value) != operator.negated,
    }
}

proptest! {
    #[test]
    fn an_expression_is_read_as_it_was_meant(expression in expression(), style: u8, row in row()) {
        let text = write(&expression, style);
        let fail = |error: FilterError| TestCaseError::fail(error.to_string());
        let read = FilterExpression::parse(&text).map_err(fail)?;
        prop_assert_eq!(without_places(read.expression.clone()), expression.clone(), "{}", text);
        let filter = read.bind(&ROW).map_err(fail)?;
        prop_assert_eq!(filter.keeps(&row), holds(&expression, &row), "{} on {}", text, row);
    }

    /// Also half of an expression, or one with a letter too much.
    #[test]
    fn any_text_is_read_or_refused_with_a_place(
        expression in expression(), style: u8, cut in any::<prop::sample::Index>(), more in "[ -~ü\n]{0,3}",
    ) {
        let text = write(&expression, style);
        let cut = text.char_indices().map(|(at, _)| at).nth(cut.index(text.chars().count())).unwrap_or(0);
        let text = format!("{}{more}{}", &text[..cut], &text[cut..]);
        for text in [&text, &text[..cut]] {
            if let Err(error) = FilterExpression::parse(text) {
                let why = error.to_string();
                let (line, rest) = why.split_once(':').unwrap();
                let (column, rest) = rest.split_once(" (").unwrap();
                let (offset, _) = rest.split_once("): ").unwrap();
                prop_assert!(line.parse::<usize>().unwrap() >= 1 && column.parse::<usize>().is_ok());
                prop_assert!(offset.parse::<usize>().unwrap() <= text.len(), "{}", why);
                prop_assert_eq!(text[..error.offset()].chars().count() + 1, error.column());
            }
        }
    }
}
