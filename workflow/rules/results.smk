rule tabulate:
    input:
        table_inputs,
    output:
        csv=report(
            "results/{study}/tables/{table}.csv",
            caption="../report/table.rst",
            category="Tables",
            labels=table_labels,
        ),
        record="results/{study}/tables/{table}.json",
    log:
        "results/{study}/logs/tabulate/{table}.log",
    benchmark:
        "results/{study}/benchmarks/tabulate/{table}.tsv"
    conda:
        "../../envs/noisesteps.yaml"
    resources:
        mem_mb=memory_mb("tabulate"),
        runtime=minutes("tabulate"),
    params:
        settings=settings("tabulate"),
    shell:
        'python -m noisesteps tabulate --config "$NOISESTEPS_CONFIG" --table {wildcards.table} '
        "> {log:q} 2>&1"


rule draw:
    input:
        figure_inputs,
    output:
        png=report(
            "results/{study}/figures/{figure}.png",
            caption="../report/figure.rst",
            category="Figures",
            labels=figure_labels,
        ),
        svg="results/{study}/figures/{figure}.svg",
        record="results/{study}/figures/{figure}.json",
    log:
        "results/{study}/logs/draw/{figure}.log",
    benchmark:
        "results/{study}/benchmarks/draw/{figure}.tsv"
    conda:
        "../../envs/noisesteps.yaml"
    resources:
        mem_mb=memory_mb("draw"),
        runtime=minutes("draw"),
    params:
        settings=settings("draw"),
    shell:
        'python -m noisesteps draw --config "$NOISESTEPS_CONFIG" --figure {wildcards.figure} '
        "> {log:q} 2>&1"


rule report:
    input:
        figures=all_figures,
        tables=all_tables,
        skipped=all_skipped,
    output:
        report(
            "results/{study}/report.html",
            caption="../report/report.rst",
            category="Report",
            labels={"report": "the whole study on one page"},
        ),
    log:
        "results/{study}/logs/report.log",
    benchmark:
        "results/{study}/benchmarks/report.tsv"
    conda:
        "../../envs/noisesteps.yaml"
    resources:
        mem_mb=memory_mb("report"),
        runtime=minutes("report"),
    params:
        settings=settings("report"),
    shell:
        'python -m noisesteps report --config "$NOISESTEPS_CONFIG" > {log:q} 2>&1'
