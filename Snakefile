from snakemake.utils import min_version

min_version("9.27")


if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/classification.smk"
include: "workflow/rules/results.smk"


report: "workflow/report/study.rst"


localrules:
    all,
    fetch,


onstart:
    hold_study()
    start_jobs_unmetered()


rule all:
    default_target: True
    input:
        final_files(),
