//! A bar chart in SVG: groups of horizontal bars with the quartiles, and a line at 1.

use std::fmt::{self, Write as _};

const WIDTH: f64 = 900.0;
/// Where the bars begin; the names of the groups are to the left of it.
const LEFT: f64 = 320.0;
/// Room for the figure behind the longest bar.
const RIGHT: f64 = 60.0;
const TOP: f64 = 74.0;
const BAR: f64 = 13.0;
const GAP: f64 = 13.0;
const COLORS: [&str; 4] = ["#d9480f", "#1c7ed6", "#868e96", "#2b8a3e"];

/// Ratios in groups, one bar per series; 1 is the yardstick.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// What the bars are.
    pub title: String,
    /// How they were measured.
    pub subtitle: String,
    /// The name of the line at 1.
    pub yardstick: String,
    /// The names of the bars of each group.
    pub series: Vec<String>,
    /// The groups, from the top.
    pub groups: Vec<ChartGroup>,
}

/// The bars at one name.
#[derive(Debug, Clone, PartialEq)]
pub struct ChartGroup {
    /// Its name.
    pub name: String,
    /// For each series the first quartile, the median and the third quartile.
    pub bars: Vec<[f64; 3]>,
}

impl Chart {
    fn greatest(&self) -> f64 {
        let ends = self.groups.iter().flat_map(|group| &group.bars).map(|[.., third]| *third);
        ends.filter(|end| end.is_finite()).fold(1.0, f64::max)
    }
}

impl fmt::Display for Chart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let greatest = self.greatest();
        let x = |value: f64| LEFT + value / greatest * (WIDTH - LEFT - RIGHT);
        let group_height = self.series.len() as f64 * BAR + GAP;
        let bottom = TOP + self.groups.len() as f64 * group_height;
        let height = bottom + 26.0;
        writeln!(
            f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">"
        )?;
        writeln!(f, "<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>")?;
        text(f, (12.0, 22.0), "start", "font-size=\"15\" font-weight=\"bold\"", &self.title)?;
        text(f, (12.0, 41.0), "start", "fill=\"#495057\"", &self.subtitle)?;
        for (n, (name, color)) in self.series.iter().zip(COLORS).enumerate() {
            let left = LEFT + n as f64 * 195.0;
            writeln!(f, "<rect x=\"{left}\" y=\"53\" width=\"11\" height=\"11\" fill=\"{color}\"/>")?;
            text(f, (left + 16.0, 63.0), "start", "", name)?;
        }
        let mut top = TOP;
        for group in &self.groups {
            let middle = top + self.series.len() as f64 * BAR / 2.0;
            text(f, (LEFT - 10.0, middle + 4.0), "end", "", &group.name)?;
            for (n, (bar, color)) in group.bars.iter().zip(COLORS).enumerate() {
                if bar.iter().all(|value| value.is_finite()) {
                    write_bar(f, bar.map(x), top + n as f64 * BAR, color, bar[1])?;
                }
            }
            top += group_height;
        }
        let one = x(1.0);
        writeln!(
            f,
            "<line x1=\"{one:.1}\" y1=\"{:.1}\" x2=\"{one:.1}\" y2=\"{bottom:.1}\" stroke=\"#212529\" \
             stroke-dasharray=\"4 3\"/>",
            TOP - 4.0
        )?;
        text(f, (one, bottom + 15.0), "middle", "", &self.yardstick)?;
        writeln!(f, "</svg>")
    }
}

/// A bar to the median, a line between the quartiles, and the figure.
fn write_bar(
    f: &mut fmt::Formatter<'_>,
    [first, median, third]: [f64; 3],
    top: f64,
    color: &str,
    value: f64,
) -> fmt::Result {
    let (width, height, middle) = (median - LEFT, BAR - 2.0, top + (BAR - 2.0) / 2.0);
    writeln!(
        f,
        "<rect x=\"{LEFT}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{color}\"/>"
    )?;
    writeln!(
        f,
        "<line x1=\"{first:.1}\" y1=\"{middle:.1}\" x2=\"{third:.1}\" y2=\"{middle:.1}\" stroke=\"#212529\"/>"
    )?;
    let figure = format!("{value:.2}");
    text(f, (median.max(third) + 5.0, top + BAR - 3.0), "start", "font-size=\"11\"", &figure)
}

fn text(
    f: &mut fmt::Formatter<'_>,
    (x, y): (f64, f64),
    anchor: &str,
    style: &str,
    content: &str,
) -> fmt::Result {
    write!(f, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {style}>")?;
    for c in content.chars() {
        match c {
            '<' => f.write_str("&lt;")?,
            '&' => f.write_str("&amp;")?,
            c => f.write_char(c)?,
        }
    }
    writeln!(f, "</text>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_median() {
        let group = |name: &str, bar| ChartGroup { name: name.into(), bars: vec![bar, [f64::NAN; 3]] };
        let chart = Chart {
            title: "a < b".into(),
            subtitle: String::new(),
            yardstick: "nginx".into(),
            series: vec!["ours".into(), "absent".into()],
            groups: vec![group("one", [0.5, 1.0, 2.0]), group("two", [0.5, 0.5, 0.5])],
        };
        let text = chart.to_string();
        // The scale ends at the greatest quartile, 2, after 900 - 320 - 60 = 520 units.
        let widths: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("fill=\"#d9480f\"") && line.starts_with("<rect x=\"320\" y"))
            .filter_map(|line| line.split("width=\"").nth(1)?.split('"').next())
            .collect();
        assert_eq!(widths, ["11", "260.0", "130.0"], "the mark of the legend, and two bars: {text}");
        assert!(text.contains("a &lt; b") && !text.contains("NaN"), "{text}");
    }
}
