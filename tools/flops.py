from mmyolo_ext.cli.flops import main

if __name__ == '__main__':
    main()
