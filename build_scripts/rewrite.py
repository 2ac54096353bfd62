import ast,io,os,re,subprocess,sys,tokenize
from pathlib import Path
sys.path.insert(0,'/tmp/mv')
from mapping import M, full
ROOT=Path(sys.argv[1]); os.chdir(ROOT)
SYM={};STAR={}
for o,n in M.items():
    if isinstance(n,str): STAR[o]=n
    else:
        for t,(d,names) in n.items():
            for x in names:
                if x=="*": STAR[o]=t
                else: SYM[o,x]=t
def where(old,name): return SYM.get((old,name),STAR[old])
PKGS={"client","server","attacks","conf","client.corpora"}
def self_mod(p):
    m=".".join(p.with_suffix("").parts)
    return m
def rewrite_imports(p,src):
    tree=ast.parse(src); lines=src.splitlines(keepends=True); edits=[]
    me=self_mod(p)
    for n in ast.walk(tree):
        if isinstance(n,ast.ImportFrom) and n.level==0 and n.module and n.module.split(".")[0] in ("client","server","attacks","conf"):
            out={}
            for a in n.names:
                sub=f"{n.module}.{a.name}"
                if sub in STAR and not (n.module in STAR and (n.module,a.name) in SYM):
                    new=STAR[sub]; par,base=new.rsplit(".",1)
                    if base==a.name: out.setdefault(full(par),[]).append(a.name+(f" as {a.asname}" if a.asname else ""))
                    else: out.setdefault(full(par),[]).append(f"{base} as {a.asname or a.name}")
                elif n.module in STAR:
                    new=where(n.module,a.name)
                    if new==me: continue
                    out.setdefault(full(new),[]).append(a.name+(f" as {a.asname}" if a.asname else ""))
                else: out.setdefault("fedser."+n.module,[]).append(a.name)
            ind=" "*n.col_offset
            tail=""
            last=lines[n.end_lineno-1]
            m=re.search(r"(\s+# .*)$",last.rstrip("\n"))
            if m: tail=m[1]
            text="".join(f"{ind}from {k} import {', '.join(v)}{tail}\n" for k,v in out.items()) or (f"{ind}pass\n" if ind else "")
            edits.append((n.lineno-1,n.end_lineno,text))
        elif isinstance(n,ast.Import):
            for a in n.names:
                if a.name.split(".")[0] in ("client","server","attacks","conf"): print("IMPORT",p,n.lineno,a.name)
    for s,e,t in sorted(edits,reverse=True): lines[s:e]=[t]
    return "".join(lines)
PAT=re.compile(r"(?<![\w./-])(client|server|attacks|conf)((?:\.[A-Za-z_]\w*)+)")
def dotted(m):
    parts=(m[1]+m[2]).split(".")
    for k in range(len(parts),1,-1):
        old=".".join(parts[:k])
        if old in STAR:
            rest=parts[k:]
            new=where(old,rest[0]) if rest else STAR[old]
            return ".".join([full(new),*rest])
    if m[0] in ("client.corpora",): return "fedser.client.corpora"
    return m[0]
PPAT=re.compile(r"(?<![\w.-])(?<!tests/)(?<!fedser/)(client|server|attacks|conf)/((?:\w+/)*\w+)\.py\b")
def paths(m):
    old=m[1]+"."+m[2].replace("/",".")
    if old in STAR: return STAR[old].replace(".","/")+".py"
    return m[0]
def text_all(s): return PPAT.sub(paths,PAT.sub(dotted,s))
def rewrite_strings(p,src):
    out=[];last=(1,0)
    lines=src.splitlines(keepends=True)
    offs=[0]
    for l in lines: offs.append(offs[-1]+len(l))
    res=[];pos=0
    toks=list(tokenize.generate_tokens(io.StringIO(src).readline))
    for t in toks:
        if t.type in (tokenize.STRING,tokenize.COMMENT) :
            a=offs[t.start[0]-1]+t.start[1]; b=offs[t.end[0]-1]+t.end[1]
            new=text_all(t.string)
            res.append(src[pos:a]);res.append(new);pos=b
    res.append(src[pos:])
    return "".join(res)
files=subprocess.run(["git","ls-files","-co","--exclude-standard"],capture_output=True,text=True).stdout.split()
for f in files:
    p=Path(f)
    if not p.is_file() or p.suffix in (".parquet",".png",".svg",".csv") or p.parts[0] in (".venv","build","site"): continue
    try: src=p.read_text()
    except UnicodeDecodeError: continue
    if p.suffix==".py":
        new=rewrite_strings(p,rewrite_imports(p,src))
    elif p.suffix in (".md",".yaml",".yml",".toml",".json",".jinja",".sh",".ipynb",".ini","") or p.name in ("Makefile","Dockerfile"):
        new=text_all(src)
    else: continue
    if new!=src: p.write_text(new)
