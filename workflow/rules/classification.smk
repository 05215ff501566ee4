# Jobs of this branch are long: they start before tables and figures, not after them.
rule sets:
    input:
        set_inputs,
    output:
        images="results/{study}/sets/{set}/images.npy",
        labels="results/{study}/sets/{set}/labels.csv",
        record="results/{study}/sets/{set}/set.json",
    log:
        "results/{study}/logs/sets/{set}.log",
    benchmark:
        "results/{study}/benchmarks/sets/{set}.tsv"
    priority: 1
    conda:
        "../../envs/noisesteps.yaml"
    resources:
        mem_mb=memory_mb("sets"),
        runtime=minutes("sets"),
    params:
        settings=settings("sets"),
    shell:
        'python -m noisesteps sets --config "$NOISESTEPS_CONFIG" --set {wildcards.set} '
        "> {log:q} 2>&1"


# All repetitions in one job: starting a process takes as long as training a small classifier.
rule classify:
    input:
        images="results/{study}/sets/{set}/images.npy",
        labels="results/{study}/sets/{set}/labels.csv",
        record="results/{study}/sets/{set}/set.json",
        test_images="results/{study}/sets/test/images.npy",
        test_labels="results/{study}/sets/test/labels.csv",
        test_record="results/{study}/sets/test/set.json",
    output:
        classifier_records(),
    log:
        "results/{study}/logs/classify/{architecture}/{set}.log",
    benchmark:
        "results/{study}/benchmarks/classify/{architecture}/{set}.tsv"
    priority: 1
    conda:
        "../../envs/noisesteps.yaml"
    threads: gpu_job_threads()
    resources:
        gpu=1,
        mem_mb=memory_mb("classify"),
        runtime=minutes("classify"),
    params:
        settings=settings("classify"),
    shell:
        'python -m noisesteps classify --config "$NOISESTEPS_CONFIG" '
        "--architecture {wildcards.architecture} --set {wildcards.set} "
        "--threads {threads} > {log:q} 2>&1"
