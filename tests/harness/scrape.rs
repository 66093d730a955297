//! A page of metrics in Prometheus' text format, as a scrape gets it.

/// What a page said.
#[derive(Debug, Clone, Default)]
pub struct Scrape(Vec<Sample>);

#[derive(Debug, Clone)]
struct Sample {
    name: String,
    /// The labels as they stand between the braces.
    labels: String,
    value: f64,
}

impl Scrape {
    /// Reads a page. Lines that are no samples are passed over.
    pub fn parse(page: &str) -> Self {
        let samples = page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let labels = labels.trim_end_matches('}').to_owned();
            Some(Sample { name: name.to_owned(), labels, value: value.parse().ok()? })
        });
        Self(samples.collect())
    }

    /// The sum of a metric's series that carry all these labels; 0 when there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let carries = |sample: &&Sample| {
            labels.iter().all(|(label, value)| sample.labels.contains(&format!("{label}=\"{value}\"")))
        };
        self.0.iter().filter(|one| one.name == name).filter(carries).map(|one| one.value).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_their_labels() {
        let page =
            "# HELP a b\n# TYPE a counter\na{s=\"x\",t=\"1\"} 2\na{s=\"x\",t=\"2\"} 3\na{s=\"y\"} 4\nb 0.5\n";
        let scrape = Scrape::parse(page);
        assert_eq!(scrape.sum("a", &[("s", "x")]), 5.0);
        assert_eq!(scrape.sum("a", &[("s", "x"), ("t", "2")]), 3.0);
        assert_eq!((scrape.sum("b", &[]), scrape.sum("c", &[])), (0.5, 0.0));
    }
}
